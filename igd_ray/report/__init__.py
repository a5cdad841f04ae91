"""What people read: the HTML report and the tables on the terminal, both from the catalog only."""
