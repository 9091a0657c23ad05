#!/usr/bin/env bash
# requirements/lock.sh PIP_COMPILE GROUP...: pin the exact versions of every group into requirements/GROUP.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=("$1" --quiet --upgrade --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host
         --no-emit-find-links --allow-unsafe)
shift
extras=("${@/#/--extra=}")
"${compile[@]}" "${extras[@]}" --output-file build/all.txt pyproject.toml
for group in "$@"; do
    "${compile[@]}" --extra="$group" --constraint build/all.txt --output-file "requirements/$group.txt" pyproject.toml
done
printf 'hatchling\neditables\n' | "${compile[@]}" --output-file requirements/build.txt -
# Lines about tilework itself (its extras name each other) are not for pip.
sed -i '/^tilework\b/d;/^ *# /d;/^--/d' requirements/*.txt
