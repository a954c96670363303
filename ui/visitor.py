"""Who looks at the page: what this session has typed and added, and the catalog as it sees it.

Pages ask the selector with `access()`, so that a key or a server of one visitor is never another's.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TypeVar

import streamlit as st

from slm_backends import catalog, selector
from slm_backends.access import Access
from slm_backends.catalog import Catalog, Deployment
from slm_backends.errors import SLMError
from slm_backends.selector import State

TICK = 0.05  # seconds

T = TypeVar("T")


def access() -> Access:
    """This session's own; it goes with the session."""
    if "access" not in st.session_state:
        st.session_state.access = Access()
    found: Access = st.session_state.access
    return found


def known() -> Catalog:
    """The catalog with what this session has added."""
    return access().catalog()


def state(deployment: Deployment) -> State:
    """Whether it can answer this visitor; where that cannot be told, why not."""
    try:
        return selector.state(deployment, access())
    except SLMError as error:
        return State("not ready", error.message)


def added(deployment: Deployment) -> bool:
    """Whether this session has added it."""
    return deployment.id not in catalog.load().deployments


def wait(future: Future[T]) -> T:
    """What becomes of it. Streamlit may stop the page meanwhile."""
    while not future.done():
        time.sleep(TICK)
        "access" in st.session_state  # noqa: B015 - looking there lets Streamlit stop us here
    return future.result()
