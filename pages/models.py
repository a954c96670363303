"""What can run here: memory and workers, and every deployment with what it takes and what to do."""

import streamlit as st

from slm_backends import catalog
from ui import library, machine, shell

shell.open_page("models")
known = catalog.load()
st.subheader("On this computer")
machine.overview()
machine.runtimes()
st.subheader("Models")
chosen = library.filters(known)
shown = library.matching(known, chosen)
if not shown:
    st.info("Nothing matches. Take a filter away.", icon=":material/filter_alt_off:")
for model, deployments in shown.items():
    with st.container(border=True, key=f"model_{model.id}"):
        library.headline(model, known)
        for deployment in deployments:
            library.row(deployment)
