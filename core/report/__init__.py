"""A report about recorded runs, whatever their study: one HTML page that stands alone."""
