"""The same content in many languages, asked of several deployments, and what came of it.

    languages, parallel   which languages there are, and what the shipped set asks in each
    tasks, table_file     from a task, or a person's own file, to a Plan
    runner                works through a plan; results is the file that it grows
    identify, fidelity    in which language a reply is, by line and by word
    scores, premium       what else is measured: correctness, speed, tokens

No Streamlit in here: a page and the command line use the same modules.
"""
