"""Streamlit pieces that pages share: named after what is on screen."""
