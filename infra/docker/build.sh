#!/usr/bin/env bash
# Runs docker build with the base images of a variant, by digest: infra/docker/build.sh cpu|cuda ARGUMENTS-OF-DOCKER-BUILD...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
variant=${1:?cpu or cuda}
shift

base() { # of a stage
  local image digest
  image=$(awk -v variant="$variant" -v stage="$1" '$1 == variant && $2 == stage { print $3 }' "$here/bases")
  if [ -z "$image" ]; then
    echo "unknown variant $variant; expected cpu or cuda" >&2
    return 1
  fi
  digest=$(awk -v image="$image" '$1 == image { print $2 }' "$here/digests" 2>/dev/null || true)
  if ! [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "the digest of $image is unknown; run infra/docker/pin.sh once, and commit infra/docker/digests" >&2
    return 1
  fi
  echo "$image@$digest"
}

build=$(base build)
run=$(base run)
exec docker build -f "$here/Dockerfile" --build-arg VARIANT="$variant" --build-arg BUILD_BASE="$build" --build-arg RUN_BASE="$run" "$@"
