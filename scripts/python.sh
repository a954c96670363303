#!/bin/sh
# Print the Python to make .venv with: $1 where it is given; else the `python3` that this computer
# uses anyway, then others, newest first. Python 3.10 comes last, since it gets older packages.
set -u

can() { # PYTHON LOWEST HIGHEST: is it between these versions of Python 3, and able to make a .venv?
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, $2) <= sys.version_info[:2] <= (3, $3))" \
        >/dev/null 2>&1
}

if [ -n "${1:-}" ]; then
    can "$1" 10 99 && command -v "$1" && exit
    echo "$1 is not a Python 3.10 or newer that has venv and ensurepip." >&2
    exit 1
fi
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    can "$name" 11 14 && command -v "$name" && exit
done
for name in python3.10 python3; do
    can "$name" 10 99 && command -v "$name" && exit
done

for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "Python $version is here, but without venv and ensurepip. On Debian and Ubuntu:" >&2
        echo "    sudo apt install python3-venv     (or python$version-venv)" >&2
        exit 1
    fi
done
echo "No Python 3.10 or newer was found. On Debian and Ubuntu:" >&2
echo "    sudo apt install python3 python3-venv" >&2
echo "On macOS: brew install python. To name one yourself: make run PYTHON=/path/to/python3" >&2
exit 1
