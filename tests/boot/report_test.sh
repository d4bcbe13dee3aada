#!/bin/bash
# ring3 report: pages from a run, from a run that was killed, and from a timeline that somebody has tampered with, shown by
# a browser. Without chromium-headless-shell the browser's part is skipped, and the whole counts as skipped.
#
# usage: report_test.sh RING3 KERNEL
set -u
ring3=$(realpath "$1") kernel=$(realpath "$2")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
browser=$(command -v chromium-headless-shell || command -v chromium)

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# show PAGE: what the page is after its script has run, in `dom`
show()
{
    timeout 60 "$browser" --no-sandbox --disable-gpu --headless --user-data-dir="$dir/profile" --enable-logging=stderr \
        --window-size="${2:-1400},2000" --virtual-time-budget=5000 --dump-dom "file://$dir/$1" > dom 2> browser.err ||
        fail "$1: the browser: $(tail -3 browser.err)"
    grep -q 'data-ready="yes"' dom || fail "$1: its script did not come to the end: $(grep -i error browser.err | head -3)"
    if grep -E 'CONSOLE.*(Error|Refused)' browser.err; then
        fail "$1: errors in the browser"
    fi
}

# timeline FILE: each line is an event; slices of a track follow each other without overlap (by more than the digits), an
# instant does not come before the slice that it follows, and all three tracks have slices.
timeline()
{
    awk '
    function value(key,  at, text) {
        at = index($0, "\"" key "\":")
        text = substr($0, at + length(key) + 3)
        return at ? text + 0 : -1
    }
    !/^\[$|^\]$|^\{.*\},?$/ { print "line " NR " is no event"; bad = 1 }
    /"ph":"X"/ {
        tid = value("tid"); ts = value("ts"); dur = value("dur")
        if (ts < end[tid] - 0.0015 || dur < 0) { print "line " NR " overlaps: " $0; bad = 1 }
        end[tid] = ts + dur; slices[tid]++
    }
    /"ph":"i"/ { if (value("ts") < end[value("tid")] - 0.0015) { print "line " NR " comes too late: " $0; bad = 1 } instants++ }
    END { exit bad || !slices[1] || !slices[2] || !slices[3] || !instants }' "$1" > timeline.err ||
        fail "the timeline $1: $(head -2 timeline.err)"
}

for engine in translate interpret trap; do
    "$ring3" engines | grep -A1 "^$engine " | grep -q '  usable' || continue
    "$ring3" run --kernel "$kernel" --append run=forktest --engine $engine --trace run.json --stat=json:stat.json > out 2>&1 \
        < /dev/null || fail "the run on $engine: $(tail -3 out)"
    timeline run.json
    for key in top_exits top_samples to_kernel door_ns; do
        grep -q "\"$key\"" stat.json || fail "--stat=json on $engine lacks $key"
    done
    "$ring3" report run.json -o $engine.html > out || fail "report of $engine: $(cat out)"
done
"$ring3" run --kernel "$kernel" --append run=forktest --engine translate --trace run.json > out 2>&1 < /dev/null ||
    fail "the run: $(tail -3 out)"
"$ring3" run --kernel "$kernel" --append run=spinner --engine interpret --trace killed.json > out 2>&1 < /dev/null &
for _ in $(seq 100); do # it is written once a second
    sleep 0.2
    grep -q '"name":"interrupt' killed.json 2> /dev/null && break
done
kill -9 $! || fail "the run to be killed has ended: $(tail -2 out)"
wait 2> /dev/null
timeline killed.json
[ "$(tail -n 1 killed.json)" = ']' ] || fail 'the timeline of a run that was killed is not complete JSON'
"$ring3" run --kernel "$kernel" --append run=forktest --trace small.json --trace-size 64K > out 2>&1 < /dev/null
grep -q 'the timeline ends early' out || fail "--trace-size: $(tail -2 out)"
grep -q 'the timeline ends here' small.json || fail 'the timeline does not say that it ends'
"$ring3" report run.json > out 2>&1 || fail "report: $(cat out)"
[ "$(cat out)" = run.html ] || fail "the page's name: $(cat out)"
"$ring3" report run.json -o other.html > /dev/null && cmp -s run.html other.html || fail 'two pages of one run differ'
grep -qE '(src|href)="?(https?:)?//' run.html && fail 'the page names something outside of itself'

# cut off: without the report's data, in the middle of a line
head -c 200001 run.json > cut.json
"$ring3" report cut.json > out 2>&1 || fail "report of a timeline that was cut off: $(cat out)"

# hostile: names that would end the script or make markup
cat > hostile.json <<'END'
[
{"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{"name":"</script><script>document.title='owned'</script>"}},
{"ph":"X","pid":1,"tid":1,"ts":0.0,"dur":10.0,"name":"</script><img src=x onerror=document.title='owned'>","args":{"rip":"<!--<script>"}},
{"ph":"X","pid":1,"tid":3,"ts":10.0,"dur":5.0,"name":"<b>bold</b>","args":{"port":"\u2028\"';</script>"}},
{"ph":"X","pid":1,"tid":3,"ts":20.0,"dur":5.0,"name":"long","args":{"port":"xéééééééééééééééééééééééééééééééééééééééééé"}},
{"ph":"X","pid":1,"tid":1e300,"ts":-1e300,"dur":"long","name":7,"args":[]},
{"ph":"i","pid":1,"tid":99999,"ts":12.0,"name":"#PF"}
]
END
"$ring3" report hostile.json > out 2>&1 || fail "report of a hostile timeline: $(cat out)"
[ "$(grep -c '</script>' hostile.html)" = "$(grep -c '</script>' run.html)" ] || fail 'the data can end the script'

refuse()
{
    "$ring3" report "${@:2}" > out 2> err
    [ $? = 2 ] && [ "$(wc -l < err)" = 1 ] && [[ $(cat err) == "ring3: report: "$1 ]] || fail "report ${*:2}: $(cat err)"
}
refuse 'missing.json: No such file*' missing.json
refuse "*is not a timeline*" "$kernel"
refuse '/nonexistent/page.html: No such file*' run.json -o /nonexistent/page.html
refuse 'name the file*'
refuse "unknown option '-x'*" -x
echo '[' > empty.json
refuse '*is not a timeline*' empty.json

if [ -n "$browser" ]; then
    show run.html
    for text in 'mmio-write' 'screen_put' 'guest user' '32-bit' 'the way in' 'iretd\|jmp'; do
        grep -q "$text" dom || fail "the page does not show '$text'"
    done
    [ "$(grep -o '<tr>' dom | wc -l)" -gt 20 ] || fail 'the tables are empty'
    show run.html 420
    show cut.html
    grep -q 'the run was cut off' dom || fail 'a run that was cut off is not said to be'
    show hostile.html
    grep -q '<title>ring3 report</title>' dom || fail 'a hostile timeline has run a script'
    grep -q '<img\|<b>bold' dom && fail 'a hostile timeline has made markup'
fi
[ $failures = 0 ] || exit 1
if [ -z "$browser" ]; then
    echo 'SKIPPED: no chromium-headless-shell: the pages were made but not shown'
    exit 77
fi
echo 'report: shown'
