"""What every `scooter …` command shares: options, output, exit codes, errors as sentences."""
