"""What the Many languages page is made of.

choosing    what is asked: deployments, languages, a task, prompts, parameters
kept        the runs of this process, by the token in their address
running     how far a run is, with Stop, Resume and Retry
replies     which rows of the grid are shown, and in which order
grid        a row a language, a column a deployment; grid.js draws it
cells       one cell as plain data; pure functions
opened      a cell opened: prompt, whole replies, their numbers and differences
measured    tables of what was measured
tokens      what a language costs in tokens
charted     charts of it
demo        the lesson's demo and the published scores
files       results as a file, and files opened
"""
