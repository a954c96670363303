"""What every page has around it: title, icon, navigation, style.

A page calls `open_page` first, so that it is whole also when its address is opened on a server that
has not run app.py yet. Knows the list of pages and nothing of what they do.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[1]
STYLE = Path(__file__).with_name("style.css")
ICON = Path(__file__).with_name(
    "icon.svg"
)  # a file of ours: an icon by name comes from the network
PRODUCT = "SLM playground"

#: file in pages/ -> title; the first one is where / leads. No icons: Streamlit would have the
#: browser fetch the icon of the page on screen from elsewhere.
PAGES = {
    "chat": "Chat",
    "vision": "Vision",
    "multilingual": "Many languages",
    "moe": "Experts",
    "models": "Models",
}


_navigated = False  # in this process; Streamlit runs app.py before a page once it was


def navigate() -> None:
    """Draw the navigation and run the page that was asked for. For app.py."""
    _navigation().run()


def open_page(name: str) -> None:
    """First call of every page. Safe to make more than once.

    Streamlit looks for pages/ by itself until st.navigation was first called, so the first address
    opened on a fresh server may be a page's own, without app.py: then it is run again, through it.
    """
    title = PAGES[name]
    st.session_state.page = name
    st.set_page_config(
        page_title=f"{title} · {PRODUCT}",
        page_icon=str(ICON),
        layout="wide",
        menu_items={"About": f"{PRODUCT}: one prompt, side by side, on small language models."},
    )
    if not (_navigated and st.session_state.get("navigated")):
        _navigation()
        st.rerun()
    st.html(STYLE)


def link(name: str, label: str, **query: str) -> None:
    """A link to that page. A button cannot lead away from widgets that stand in the address."""
    st.page_link(_page(name), label=label, query_params=query)


def _page(name: str) -> st.Page:
    return st.Page(ROOT / "pages" / f"{name}.py", title=PAGES[name], url_path=name)


def _navigation() -> st.Page:
    global _navigated
    _navigated = st.session_state.navigated = True
    pages = [_page(name) for name in PAGES]

    def home() -> None:
        # A default page loses its own address, and /chat must go on working.
        st.switch_page(pages[0], query_params=st.query_params.to_dict())

    front = st.Page(home, title=PRODUCT, default=True, visibility="hidden")
    return st.navigation([front, *pages], position="top")
