#!/usr/bin/env bash
# Runs a jaxstyle grid on every host of a TPU VM that exists already; --help says how.
set -euo pipefail

usage() {
  cat <<'END'
usage: scripts/tpu_vm.sh install NAME --zone ZONE [--project PROJECT] [--dry-run]
       scripts/tpu_vm.sh grid    NAME --zone ZONE [--project PROJECT] [--dry-run] -- ARGUMENTS...
       scripts/tpu_vm.sh collect NAME --zone ZONE [--project PROJECT] [--dry-run] -- ARGUMENTS...

Runs jaxstyle on the workers of NAME, a TPU VM or pod slice that exists already, through gcloud.
It creates no machine; what it installs is in ~/jaxstyle-tpu on every worker, beside the archive.

install  copies the last commit of this checkout to every worker, installs it there with its tpu
         and gcs extras, and fetches the weights; the workers need Python 3.11 or newer, with venv
grid     runs `jaxstyle grid ARGUMENTS... --distributed` on all workers at once
collect  runs `jaxstyle grid ARGUMENTS... --collect` on worker 0: the contact sheet of what is there

The output folder in ARGUMENTS should be gs:// or a folder that all workers share, and pictures must
be where every worker finds them. Relative paths start in ~/jaxstyle-tpu, the copied checkout.
--dry-run prints the commands instead of running them. With several workers gcloud wants the key in
the agent: ssh-add ~/.ssh/google_compute_engine. Ctrl-C may leave jaxstyle running on the workers.

example:
  scripts/tpu_vm.sh install my-slice --zone us-central2-b
  scripts/tpu_vm.sh grid my-slice --zone us-central2-b -- \
    --contents gs://my-bucket/photos --styles gs://my-bucket/paintings -o gs://my-bucket/grid
END
}

fail() {
  echo "tpu_vm.sh: $1" >&2
  exit 2
}

quoted() {
  local words
  printf -v words ' %q' "$@"
  printf '%s\n' "${words# }"
}

run() {
  [ -z "$dry_run" ] || { quoted "$@" && return; }
  quoted "$@" >&2
  "$@"
}

on_worker() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

action="" name="" zone="" project="" dry_run="" separator=""
while [ $# -gt 0 ] && [ -z "$separator" ]; do
  case $1 in
    -h | --help) usage && exit ;;
    --zone=* | --project=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --zone | --project)
      case ${2-} in "" | -*) fail "$1 needs a value" ;; esac
      if [ "$1" = --zone ]; then zone=$2; else project=$2; fi
      shift
      ;;
    --dry-run) dry_run=yes ;;
    --) separator=yes ;;
    -*) fail "unknown option $1 (options of jaxstyle grid go after --)" ;;
    *)
      [ -z "$name" ] || fail "unexpected argument $1 (arguments of jaxstyle grid go after --)"
      if [ -z "$action" ]; then action=$1; else name=$1; fi
      ;;
  esac
  shift
done

case $action in
  install | grid | collect) ;;
  *) fail "${action:+unknown sub-command $action: }say install, grid or collect, or --help" ;;
esac
[ -n "$name" ] || fail "$action needs the NAME of a TPU VM"
[ -n "$zone" ] || fail "$action needs --zone ZONE"
if [ "$action" != install ]; then
  [ $# -gt 0 ] || fail "$action needs the arguments of jaxstyle grid after --"
elif [ -n "$separator" ]; then
  fail "install takes nothing after --"
fi
[ -n "$dry_run" ] || command -v gcloud >/dev/null ||
  fail "gcloud is not installed (https://cloud.google.com/sdk); --dry-run shows what it would run"

where=(--zone="$zone")
[ -z "$project" ] || where+=(--project="$project")

case $action in
  install)
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    git -C "$root" cat-file -e HEAD:./pyproject.toml 2>/dev/null ||
      fail "install copies what git has committed, and $root is not a git checkout"
    git -C "$root" diff --quiet HEAD -- . || echo "uncommitted changes are not copied" >&2
    # A dry run leaves no folder behind, so what it prints names one that will be there.
    folder=${TMPDIR:-/tmp}
    if [ -z "$dry_run" ]; then
      folder=$(mktemp -d)
      trap 'rm -rf "$folder"' EXIT
    fi
    archive=$folder/jaxstyle-tpu.tar.gz
    run git -C "$root" archive --prefix=jaxstyle-tpu/ --output="$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "$name:" "${where[@]}" --worker=all
    # Not joined by &&, which would switch set -e off inside the sourced file.
    on_worker all "set -e; tar -xzf jaxstyle-tpu.tar.gz; cd jaxstyle-tpu; extra='[tpu,gcs]'; \
. scripts/environment.sh; .venv/bin/jaxstyle weights fetch"
    ;;
  grid)
    on_worker all "cd jaxstyle-tpu && .venv/bin/jaxstyle grid $(quoted "$@") --distributed"
    ;;
  collect)
    # One host of a slice that opened its TPU would wait for all the others.
    on_worker 0 \
      "cd jaxstyle-tpu && JAX_PLATFORMS=cpu .venv/bin/jaxstyle grid $(quoted "$@") --collect"
    ;;
esac
