#!/usr/bin/env bash
# Make the files of a release from the checkout: .github/release.sh DIRECTORY
# It needs Python 3.13 on PATH, so that the package has bytecode, and `make .venv/sam/ready .venv/release/ready`.
set -euo pipefail
cd "$(dirname "$0")/.."
files=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$(PYTHONPATH=src python3.13 -c 'import flash_call_relay; print(flash_call_relay.__version__)')
name=flash-call-relay-$version
SAM_CLI_TELEMETRY=0 .venv/sam/bin/sam build --no-cached --build-dir "$work/build"

# The order and the dates of the files are fixed, so that the same sources make the same bytes.
(
    cd "$work/build/RelayFunction"
    test -d flash_call_relay/__pycache__
    find . -exec touch --date=1980-01-01T00:00:00Z {} +
    find . -type f | LC_ALL=C sort | TZ=UTC zip -q -9 -X "$work/$name.zip" -@
)

# `sam deploy` uploads a zip file unchanged, so the function's CodeSha256 is the SHA-256 of this file.
sed "s|CodeUri: src\$|CodeUri: $name.zip|" template.yaml > "$work/template.yaml"
grep --quiet "CodeUri: $name.zip" "$work/template.yaml"

# The bill of materials lists what the package holds: this Python sees no other packages.
printf '#!/bin/sh\nPYTHONPATH=%s exec python3.13 -S "$@"\n' "$work/build/RelayFunction" > "$work/python"
chmod +x "$work/python"
.venv/release/bin/cyclonedx-py environment --output-reproducible --output-file "$work/$name.cdx.json" "$work/python"

cp "$work/$name.zip" "$work/template.yaml" "$work/$name.cdx.json" monitoring.yaml samconfig.toml "$files"
cd "$files"
sha256sum "$name.zip" "$name.cdx.json" template.yaml monitoring.yaml samconfig.toml > SHA256SUMS
cat SHA256SUMS
