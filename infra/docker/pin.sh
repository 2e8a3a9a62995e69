#!/usr/bin/env bash
# Looks up the digest of each base image and writes `digests` next to this file. Review the change and commit it:
# a tag may later name another image, a digest cannot.
set -euo pipefail
cd "$(dirname "$0")"
grep -v '^#' bases | while read -r _ _ image; do
  digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
  if ! [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "docker gave no digest for $image: $digest" >&2
    exit 1
  fi
  echo "$image $digest"
done | sort -u > digests.new
mv digests.new digests
