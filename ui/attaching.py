"""Files that are chosen, dropped or pasted into the composer are sent on at once, without Enter, so
that the page can show them and what they cost before anything is asked.

Without it (a browser that runs no scripts of ours) Enter does the same.
"""

from __future__ import annotations

import streamlit as st

PAUSE = 350  # milliseconds in which nothing was typed or attached

_SCRIPT = """
export default function ({ data }) {
  // What lies around the composer: it is itself made anew when the tray appears.
  const place = document.querySelector("[data-testid='stBottom']");
  if (!place) return;
  let timer, sent = "";
  const chips = () =>
    [...place.querySelectorAll("[data-testid='stFileChip']")].map((chip) => chip.ariaLabel);
  const send = () => {
    const attached = chips().join();
    const button = place.querySelector("[data-testid='stChatInputSubmitButton']");
    // The same files again: they could not be uploaded, and the composer says why.
    if (!attached || attached === sent || !button || button.disabled) return;
    sent = attached;
    button.click();
  };
  const wait = () => {
    clearTimeout(timer);
    if (!chips().length) sent = "";
    else timer = setTimeout(send, data.pause);
  };
  const observer = new MutationObserver(wait);
  observer.observe(place, { childList: true, subtree: true, attributes: true });
  place.addEventListener("input", wait);
  wait();
  return () => {
    clearTimeout(timer);
    observer.disconnect();
    place.removeEventListener("input", wait);
  };
}
"""

_watch = st.components.v2.component("slm_attaching", html="<span></span>", js=_SCRIPT)


def send_at_once() -> None:
    """Watch the composer, which is drawn before."""
    _watch(data={"pause": PAUSE}, key="attaching", height="content")
