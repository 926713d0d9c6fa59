# Makes the directory and waits for the end of its input. Then it stops every process group that is
# written down in the directory, and removes it.
dir=$1
trap '' HUP INT PIPE QUIT TERM
umask 077
mkdir "$dir" "$dir/running" || exit
echo
exec >/dev/null
read -r end
# From here on nothing can start: a program writes its number down before it runs.
mv "$dir/running" "$dir/stopping"
# Signals the groups of one program. False: there is none of it any more.
signal() {
    any=1
    for file in "$dir/stopping/$2".*; do
        kill -s "$1" -- "-${file##*.}" && any=0
    done
    return $any
}
# Waits until a program has ended, for so many steps at most.
end_of() {
    while signal 0 "$1" && [ "$2" -gt 0 ]; do
        sleep 0.02 || sleep 1
        set -- "$1" $(($2 - 1))
    done
}
# Let finish: whatever interrupted initdb, it would leave shared memory behind.
end_of initdb 500
signal KILL initdb
# This one leaves nothing but what is removed with the directory.
signal KILL pg_basebackup
end_of pg_basebackup 100
# An immediate shutdown, also of a server that is paused.
signal CONT postgres
signal QUIT postgres
end_of postgres 500
signal KILL postgres
end_of postgres 100
# A server that was killed leaves a piece of shared memory, whose number stands in this file.
lock=$dir/data/postmaster.pid
[ -f "$lock" ] && ipcrm -m "$(sed -n '7s/.* //p' "$lock")"
for try in 1 2 3 4 5 6 7 8 9; do
    rm -rf "$dir" && exit
    sleep 1
done
