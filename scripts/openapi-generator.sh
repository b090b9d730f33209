# shellcheck shell=bash
# OpenAPI Generator, which the tests of the API run: sourced by `setup` and `openapi-generator`.

openapi_generator_version=7.14.0

# The file that `setup` fetches.
openapi_generator_jar() {
    local name=openapi-generator-cli-$openapi_generator_version
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/gozon/$name/$name.jar"
}
