"""A button that copies a text to the clipboard. The text is data to the script, never code."""

from __future__ import annotations

import streamlit as st

_SCRIPT = """
export default function ({ parentElement, data }) {
  const button = parentElement.querySelector("button");
  const say = (word) => {
    button.textContent = word;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const byHand = () => {
    // Browsers offer the clipboard to https and localhost alone.
    const area = document.createElement("textarea");
    area.value = data.text;
    document.body.appendChild(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    say(copied ? "Copied" : "Not allowed");
  };
  button.onclick = () => {
    if (!navigator.clipboard) return byHand();
    navigator.clipboard.writeText(data.text).then(() => say("Copied"), byHand);
  };
}
"""

_STYLE = """
button {
  font: inherit; font-size: 0.875rem; color: inherit; opacity: 0.75; background: none; border: none;
  padding: 0.25rem 0; min-height: 2rem; cursor: pointer; border-radius: 0.25rem;
  white-space: nowrap;
}
button:hover, button:focus-visible { opacity: 1; }
button:focus-visible { outline: 2px solid var(--st-primary-color); }
"""

_copy = st.components.v2.component(
    "slm_copy", html="<button type='button'>Copy</button>", css=_STYLE, js=_SCRIPT
)


def copy_button(text: str, key: str) -> None:
    """Draw the button. `key` must be its own on the page."""
    _copy(data={"text": text}, key=key, width="content")
