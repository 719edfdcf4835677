#!/usr/bin/env bash
# The API with curl alone: sh, curl and base64. Usage: bash curl.sh [http://localhost:8000]
# An API key is taken from the environment variable ILLUSTRIOUS_API_KEY.
set -euo pipefail
studio=${1:-http://localhost:8000}
ask=(curl --silent --show-error --fail-with-body --noproxy localhost,127.0.0.1 -H "Content-Type: application/json")
if [ -n "${ILLUSTRIOUS_API_KEY:-}" ]; then
    ask+=(-H "Authorization: Bearer $ILLUSTRIOUS_API_KEY")
fi

echo "Status:"
"${ask[@]}" "$studio/status"
echo

echo "A picture, into apple.png:"
"${ask[@]}" "$studio/generate-image" -d '{"prompt": "a red apple", "steps": 25, "seed": 42}' > answer.json
url=$(sed -n 's/.*"image_url": *"\([^"]*\)".*/\1/p' answer.json)
"${ask[@]}" "$studio$url" -o apple.png
rm answer.json
ls -l apple.png

echo "A conversation:"
"${ask[@]}" "$studio/chat" -d '{"message": "Hello! How are you today?", "session_id": "curl"}'
echo

echo "What is in the picture:"
printf '{"image_base64": "%s", "question": "What is this?"}' "$(base64 < apple.png | tr -d '\n')" |
    "${ask[@]}" "$studio/analyze-image" -d @-
echo
