"""Crash points: a process is killed or stopped at a named place of the code, exactly, and everything must add up.

python -m tests.crashpoints      the whole matrix (`make crashpoints`)

The services know nothing of it. `process` starts one in a test, after it has wrapped the places that `seams` names; no
image holds any of this (`tests/architecture/test_images.py`).
"""
