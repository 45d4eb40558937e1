"""AWS on one machine: SAM builds and deploys the template into an emulator; AWS's own runtime runs the function."""
