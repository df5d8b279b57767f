#!/bin/sh
# morph_page.sh: morph.html in a real browser without a screen: a script that this test adds to a copy of the page moves the
# slider, clicks a bar of the chart and presses Play, and writes what it saw into the page, which the browser prints.
# Keeps a screenshot of the page as it is where SHOT names a file. Skipped (77) where no browser is found.
# usage: morph_page.sh PATH_OF_IMAGO GOLDEN_DIR [SHOT]
# SPDX-License-Identifier: MIT
set -eu
imago=$1
golden=$2
browser=
for b in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$b" >/dev/null 2>&1; then browser=$b; break; fi
done
[ -n "$browser" ] || { echo "skipped: no chromium or chrome"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

"$imago" morph --device cpu --precision f32 -m "$golden/pipelines/sd1" --steps 4 --inner 1 --size 48x64 --fps 50 \
    "$golden/morph/a.png" "$golden/morph/b.png" -o "$dir/out" 2>/dev/null >/dev/null

browse() {
    # no host is reachable: the page has to do without
    timeout 100 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$dir/profile" \
        --host-resolver-rules='MAP * ~NOTFOUND' --hide-scrollbars --window-size=900,900 --virtual-time-budget=60000 "$@" 2>/dev/null
}
cat "$dir/out/morph.html" - >"$dir/driven.html" <<'EOF'
<script>
window.onerror = e => { document.title = 'error: ' + e; };
window.onload = async () => {
  const seen = [], id = n => document.getElementById(n), wait = ms => new Promise(r => setTimeout(r, ms));
  const note = async what => { await id('view').decode(); seen.push(what + ' ' + id('number').textContent + ' ' + id('view').naturalWidth + 'x' + id('view').naturalHeight); };
  await note('start');
  id('at').value = 4; id('at').dispatchEvent(new Event('input'));
  await note('slider');
  const bars = document.querySelectorAll('#chart rect');
  bars[1].dispatchEvent(new Event('click'));
  await note('bar');
  seen.push('bars ' + bars.length + ', lit ' + document.querySelectorAll('#chart rect.on').length);
  const before = id('number').textContent;
  id('play').click();
  await wait(300);
  seen.push('play ' + id('play').textContent + (id('number').textContent === before ? ' stands' : ' moves'));
  id('play').click();
  seen.push('stop ' + id('play').textContent);
  const all = new Set(frames);
  seen.push('frames ' + all.size);
  document.body.innerHTML = '<pre>SEEN ' + seen.join('; ') + ' END</pre>';
};
</script>
EOF
# Pictures are decoded in the machine's time, which the browser's own clock may run ahead of: a page that is printed before the
# script has ended still holds the script and no answer, and is asked again.
for try in 1 2 3 4 5; do
    seen=$(browse --dump-dom "file://$dir/driven.html" | sed -n 's/.*<pre>SEEN \(.*\) END<.*/\1/p' | grep -v 'seen.join') || seen=
    [ -z "$seen" ] || break
done
want='start 1 / 7 48x64; slider 5 / 7 48x64; bar 3 / 7 48x64; bars 6, lit 1; play Pause moves; stop Play; frames 7'
if [ "$seen" != "$want" ]; then
    echo "the page says: $seen"
    echo "expected:      $want"
    exit 1
fi
browse --screenshot="$dir/page.png" "file://$dir/out/morph.html" >/dev/null
[ -s "$dir/page.png" ] || { echo "no screenshot"; exit 1; }
if [ $# -ge 3 ]; then cp "$dir/page.png" "$3"; fi
echo "passed"
