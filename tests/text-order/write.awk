# Turns what was executed, and the linker's map, into a linker script: what the first
# command executes comes first, then what the second one executes besides.
#
# A function has a section of its own. A Rust function's name holds its crates' hashes
# (`Cs…_`, rustc book, "v0 Symbol Format"), which change with the compiler and with a
# dependency's version: they stand as `*`. A C library's are known by its members.
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
    gsub(/Cs[0-9a-zA-Z]+_/, "Cs*_", section)
    # One of several of that name in the program: which number it has changes too.
    sub(/\.(llvm\.)?[0-9]+$/, "*", section)
    pattern = "*(" section ")"
  } else if (file ~ /\.a\([^)]*\)$/) {
    archive = file; sub(/\(.*$/, "", archive); sub(/^.*\//, "*", archive)
    member = file; sub(/^.*\(/, "", member); sub(/\)$/, "", member)
    pattern = archive ":" member "(.text .text.*)"
  } else {
    next
  }
  first = commands
  for (grain = int(start / 16); grain * 16 < start + size; grain++)
    if (grain in executed && executed[grain] < first) first = executed[grain]
  if (first == commands) next
  patterns[++count] = pattern
  firsts[count] = first
}
END {
  print "/* What a container's life executes of berth-oci, side by side: the kernel maps a"
  print " * program by 64 KiB and more around each fault (mm/filemap.c, fault-around), so"
  print " * scattered functions cost a fault and 64 KiB each. Written by `./x order`; a line"
  print " * that no longer means anything does nothing. */"
  print "SECTIONS\n{\n  .text.lives :\n  {"
  for (command = 0; command < commands; command++)
    for (at = 1; at <= count; at++) {
      if (firsts[at] != command || patterns[at] in written) continue
      print "    " patterns[at]
      written[patterns[at]] = 1
    }
  print "    /* A pod's monitor does this all its life. */"
  print "    *(.text._R*13berth_runtime7monitor*)"
  print "  }\n}\nINSERT BEFORE .text;"
}
