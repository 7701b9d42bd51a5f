"""What the `scooter` command does: reading, mending, running, and the doctor."""
