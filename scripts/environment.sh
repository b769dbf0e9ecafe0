# Sourced by the other scripts, with $extra set to what to install beside the project ("[test]") and
# $version to the Python to use ("3.13"; the newest there is if unset) and $constraints to a file that
# limits the versions installed, if any, in which case $variant tells its environment from others.
# Creates the virtual environment if there is none, and sets $root and $venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version="${version:-}"
constraints="${constraints:-}"
venv="$root/.venv${version:+-$version}${variant:+-$variant}"

if ! "$venv/bin/python" -c "" >/dev/null 2>&1; then
  rm -rf "$venv"  # none, or one whose Python has gone
  pythons="python3.13 python3.12 python3.11 python3"
  [ -z "$version" ] || pythons="python$version"
  for python in $pythons; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      break
    fi
    python=""
  done
  if [ -z "$python" ] || ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    echo "jaxstyle needs Python ${version:-3.11 or newer}, with its venv module" >&2
    exit 1
  fi
elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 \
  && ! "$venv/bin/python" -m ensurepip >/dev/null 2>&1; then
  echo "$venv has no pip: install it there, or remove that folder" >&2
  exit 1
fi

# Installing again is only worth the wait when what is asked for, or the version, has changed.
stamp="$venv/installed$extra"
asked=("$root/pyproject.toml" "$root/jaxstyle/__init__.py" ${constraints:+"$constraints"})
if ! cat "${asked[@]}" | cmp -s - "$stamp"; then
  echo "installing jaxstyle$extra into $venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${constraints:+--constraint "$constraints"} --editable "$root$extra"
  cat "${asked[@]}" > "$stamp"
fi
