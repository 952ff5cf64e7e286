"""What a day has cost, and who is told: counters, mail, webhook."""
