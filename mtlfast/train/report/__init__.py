"""What a person sees of a run: its tables, history.csv, report.json and pictures."""
