# Sourced by the other scripts: makes .venv if there is none and installs the project in it.
# usage: . scripts/environment.sh [EXTRA]

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
extra=${1:-}

if [ ! -x "$venv/bin/python" ]; then
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv "$venv" || exit 1
      break
    fi
  done
  if [ ! -x "$venv/bin/python" ]; then
    echo "jaxstyle needs Python 3.11 or newer, with its venv module" >&2
    exit 1
  fi
fi

# Installing again is only worth the wait when what is asked for has changed.
stamp="$venv/installed-${extra:-base}"
if ! cmp -s "$root/pyproject.toml" "$stamp"; then
  echo "installing jaxstyle${extra:+[$extra]} into $venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --editable "$root${extra:+[$extra]}" || exit 1
  cp "$root/pyproject.toml" "$stamp"
fi
