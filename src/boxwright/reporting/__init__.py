"""Pictures and pages about a run: plots, contact sheets, report.html. What is not here: computing metrics."""
