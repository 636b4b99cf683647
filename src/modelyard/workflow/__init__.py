"""The pipeline over the capabilities: register, convert, profile, choose, deploy, publish."""
