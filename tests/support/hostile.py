"""What somebody might hide in a text or in its name."""

HOSTILE = "<script>window.planted = 1</script>"
ESCAPE = "\x1b[31m"
