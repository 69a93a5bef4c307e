"""The full-size run: one path through the stages of a launched run, on one process or on many.

`plan launch` writes everything into the run's folder; `python -m planner.train.full FOLDER`, started once per rank, reads only that.
"""
