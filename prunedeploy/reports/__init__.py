"""Reports of results, in Markdown and as HTML pages."""
