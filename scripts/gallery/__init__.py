"""Pictures for the documentation: procedural styles, and one picture per option."""
