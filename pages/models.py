"""What can run here: memory and workers, servers and keys, and every deployment with its state."""

import streamlit as st

from ui import library, machine, servers, shell, visitor

shell.open_page("models")
known = visitor.known()
st.subheader("On this computer")
machine.overview()
machine.runtimes()
st.subheader("Servers")
servers.overview(known)
servers.add()
st.subheader("Models")
chosen = library.filters(known)
shown = library.matching(known, chosen)
if not shown:
    st.info("Nothing matches. Take a filter away.", icon=":material/filter_alt_off:")
for model, deployments in shown.items():
    with st.container(border=True, key=f"model_{model.id}"):
        library.headline(model, known)
        library.rows(model, deployments)
