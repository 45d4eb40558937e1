"""AWS on one machine: an emulator of its services, the deployed template, and AWS's own Lambda runtime."""
