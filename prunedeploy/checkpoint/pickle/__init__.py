"""A reader of pickles, and of the files of torch.save around them, that runs no code of theirs."""
