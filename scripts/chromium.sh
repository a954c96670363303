#!/bin/sh
# Print the path of a Chromium for the browser tests; install one where there is none.
#     CHROMIUM=$(sh scripts/chromium.sh .venv/bin/python)
# $CHROMIUM comes first. What is installed is Debian's package where that is possible, otherwise the
# build that Playwright brings. All that is said goes to standard error.
set -u
python=${1:-python3}

works() { [ -n "$1" ] && "$1" --version >/dev/null 2>&1; }

found() { # print the first browser of this computer that starts
    for name in chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Chromium.app/Contents/MacOS/Chromium" \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        path=$(command -v "$name" 2>/dev/null) && works "$path" && echo "$path" && return
    done
    return 1
}

of_playwright() {
    path=$("$python" - 2>/dev/null <<'END'
from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
END
    ) && works "$path" && echo "$path"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

by_apt() { # Ubuntu's package of that name is a snap, which needs a service that containers lack
    command -v apt-get >/dev/null 2>&1 && grep -q '^ID=debian' /etc/os-release || return 1
    export DEBIAN_FRONTEND=noninteractive
    echo "Installing Chromium with apt-get ..." >&2
    as_root apt-get install -y -q chromium >&2 && return
    as_root apt-get update -q >&2 && as_root apt-get install -y -q chromium >&2
}

by_playwright() {
    echo "Installing Chromium with Playwright ..." >&2
    if [ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ]; then
        "$python" -m playwright install --with-deps chromium >&2
    else
        "$python" -m playwright install chromium >&2
    fi
}

if [ -n "${CHROMIUM:-}" ]; then
    works "$CHROMIUM" && echo "$CHROMIUM" && exit
    echo "CHROMIUM names no browser that starts: $CHROMIUM" >&2
    exit 1
fi
found && exit
of_playwright && exit
by_apt && found && exit
by_playwright && of_playwright && exit
echo "The browser tests need a Chromium, and none could be installed. Install one (Debian:" >&2
echo "sudo apt install chromium), or let CHROMIUM name its program." >&2
exit 1
