"""From the raw files of NTU RGB+D to prepared clips."""
