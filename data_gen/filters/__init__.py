"""One file a filter; each looks at one trace and says kept, rejected or unknown, with the reason."""
