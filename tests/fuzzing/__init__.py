"""Files that users and strangers bring, changed at random: what this project makes of them.

`python -m fuzzing --inputs 5000` (with tests/ on the path; `make fuzz`) prints a table of kinds and outcomes.
"""
