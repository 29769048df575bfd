# Turns what was executed, and the linker's map, into a linker script: what the first
# command executes comes first, then what the second one executes besides.
#
# A Rust function has a section of its own whose name ends with a hash, which a new
# version of anything may change: it stands as `*` wherever that takes in little else. A C library is known by its members.
function number(hex, value, at) {
  for (at = 1; at <= length(hex); at++)
    value = value * 16 + index("0123456789abcdef", substr(hex, at, 1)) - 1
  return value
}
FNR == NR && $1 == "end" { commands++; next }
FNR == NR {
  if (!($1 / 16 in executed)) executed[$1 / 16] = commands + 0
  next
}
# VMA LMA Size Align FILE:(SECTION)
NF < 5 || $5 !~ /:\(\.text/ { next }
{
  start = number($1); size = number($3)
  file = $5; sub(/:\(\.text.*$/, "", file)
  section = $5; sub(/^.*:\(/, "", section); sub(/\)$/, "", section); sub(/\+0x[0-9a-f]+$/, "", section)
  if (section ~ /^\.text\.(unlikely\.|hot\.)?_/) {
    exact = "*(" section ")"
    stem = section; sub(/17h[0-9a-f]+E.*$/, "17h", stem)
    stem = stem == section ? exact : "*(" stem "*)"
  } else if (file ~ /\.a\([^)]*\)$/) {
    archive = file; sub(/\(.*$/, "", archive); sub(/^.*\//, "*", archive)
    member = file; sub(/^.*\(/, "", member); sub(/\)$/, "", member)
    stem = exact = archive ":" member "(.text .text.*)"
  } else {
    next
  }
  total[stem] += size
  first = commands
  for (grain = int(start / 16); grain * 16 < start + size; grain++)
    if (grain in executed && executed[grain] < first) first = executed[grain]
  if (first == commands) next
  exacts[++count] = exact
  stems[count] = stem
  firsts[count] = first
  hot[stem] += size
}
END {
  print "/* What a container's life executes of berth-oci, side by side: the kernel maps a"
  print " * program by 64 KiB around each fault (mm/filemap.c, fault-around), so scattered"
  print " * functions cost a fault and 64 KiB each. Written by `./x order`; a line that no"
  print " * longer means anything does nothing. */"
  print "SECTIONS\n{\n  .text.lives :\n  {"
  for (command = 0; command < commands; command++)
    for (at = 1; at <= count; at++) {
      if (firsts[at] != command) continue
      pattern = 3 * total[stems[at]] <= 4 * hot[stems[at]] ? stems[at] : exacts[at]
      if (!(pattern in written)) print "    " pattern
      written[pattern] = 1
    }
  print "    /* A pod's monitor does this all its life. */"
  print "    *(.text._ZN13berth_runtime7monitor*)"
  print "  }\n}\nINSERT BEFORE .text;"
}
