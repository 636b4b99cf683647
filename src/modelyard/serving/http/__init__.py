"""HTTP/1.1: framing, limits, deadlines, routing. Knows no protocol; `oip` and `tfs` bring theirs as `Routes`."""
