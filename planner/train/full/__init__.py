"""The full-size run: one path through the stages of a launched run, on one process or on many.

`plan launch` lays everything down in the run's folder; `python -m planner.train.full FOLDER`, started once a rank, reads only that.
"""
