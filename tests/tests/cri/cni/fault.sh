#!/bin/sh
# A plugin of CNI that does nothing, and that badly on demand: the file
# answer-COMMAND says how. FOLDER is replaced by the test's own. Its GC is the one
# that host-local does not have yet: addresses of pods that are not named go.
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS" >>FOLDERcalls
case $(cat "FOLDERanswer-$CNI_COMMAND" 2>/dev/null) in
error)
    echo '{"cniVersion":"1.1.0","code":11,"msg":"the line is cut","details":"at the harbour"}'
    exit 1
    ;;
status)
    echo '{"cniVersion":"1.1.0","code":50,"msg":"no line yet"}'
    exit 1
    ;;
hang)
    : >FOLDERhangs
    sleep 600
    ;;
flood) exec head -c 3000000 /dev/zero ;;
garbage) echo 'all well' && exit 0 ;;
die)
    echo 'a last word' >&2
    kill -9 $$
    ;;
linger) sleep 600 & ;;
esac
case $CNI_COMMAND in
ADD) printf '%s' "$input" | sed -n 's/.*"prevResult":\(.*\),"type":"fault".*/\1/p' ;;
GC)
    for lease in FOLDERleases/pods/[0-9a-f]*; do
        holder=$(head -n 1 "$lease" | tr -d '\r')
        case $input in *'"containerID":"'"$holder"'"'*) ;; *) rm "$lease" ;; esac
    done
    ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}' ;;
esac
