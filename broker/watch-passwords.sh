#!/bin/sh
# Runs the broker and has it load its files again when one of those watched is another one, or when
# FILE.reload is: that asks once more, as a SIGHUP that comes during a reload is lost.
#
#   watch-passwords.sh FILE… -- mosquitto -c /mosquitto/config/mosquitto.conf
#
# For a container that shares a volume with whoever replaces the password file. Watch that file and
# the server's certificate. Needs Linux, a POSIX shell, `head` and `grep`; ends as the broker ends.
set -u

files=0
for argument; do
    [ "$argument" = -- ] && break
    files=$((files + 1))
done
if [ "$files" -eq 0 ] || [ $((files + 1)) -ge $# ]; then
    echo "usage: $0 FILE... -- COMMAND..." >&2
    exit 64
fi

# The first lines tell: the canary's hash is new in each password file, and the serial number in
# each certificate. Inode numbers are used again, and a time may be the same second.
marks() {
    number=0
    for file; do
        [ "$number" -eq "$files" ] && break
        number=$((number + 1))
        head -n 4 "$file" "$file.reload" 2>/dev/null
    done
}

start() {
    shift $((files + 1))
    # A connection is a file; an engine may hand out 1024 and allow many more.
    # shellcheck disable=SC3045 # every shell on Linux has these options
    ulimit -S -n "$(ulimit -H -n)" 2>/dev/null
    "$@" &
    broker=$!
}

# A SIGHUP ends a broker that has not finished starting; the last digit is odd once it does not.
listens() {
    case $(grep '^SigCgt:' "/proc/$broker/status" 2>/dev/null) in
    *[13579bdf]) return 0 ;;
    esac
    return 1
}

# Before the start: what is replaced while the broker starts is loaded once more.
known=$(marks "$@")
start "$@"
trap 'kill -TERM "$broker" 2>/dev/null' TERM INT
trap 'listens && kill -HUP "$broker" 2>/dev/null' HUP

while kill -0 "$broker" 2>/dev/null; do
    # A fraction is more than POSIX promises.
    sleep 0.2 2>/dev/null || sleep 1
    found=$(marks "$@")
    if [ "$found" != "$known" ] && listens; then
        known=$found
        kill -HUP "$broker" 2>/dev/null
    fi
done
wait "$broker"
