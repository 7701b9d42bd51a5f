"""What a machine of one's own needs once: secrets, certificates, the servers' configuration."""
