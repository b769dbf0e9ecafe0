"""Pictures for the documentation: one per option, and a comparison of presets."""
