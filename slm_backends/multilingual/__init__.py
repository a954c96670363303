"""The same content in many languages, asked of several deployments, and what came of it.

    languages, parallel   which languages there are, and what the shipped set asks in each
    tasks, table_file     from a task, or a person's own file (rows, workbook), to a Plan
    lesson                Phi-3 mini beside Phi-3.5 mini, and what is published of both
    runner                works through a plan; results is the file that it grows
    identify, fidelity    in which language a reply is, by line and by word
    scores, premium       what else is measured: numbers (numerals), chrF (overlap), speed, tokens;
                          noise says whether a difference tells anything, wording what repeats
    report, charts        all of it to take away (document, drawing)

No Streamlit in here: a page and the command line use the same modules.
"""
