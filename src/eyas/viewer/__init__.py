"""A local web page that shows run folders: it reads them, also while they are written, and never writes to them."""
