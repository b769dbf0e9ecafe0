"""Pictures of the documentation: one for each option, and a comparison of presets."""
