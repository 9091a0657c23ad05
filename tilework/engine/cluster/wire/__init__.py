"""What processes of a cluster say to each other, how, and how strangers are kept out."""
