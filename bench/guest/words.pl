# Counts words, keeps a table of numbers and formats them; for the row `perl`. Needs no module.
my (%count, %after, @numbers, $sum);
my $before = '';
while (my $line = <STDIN>) {
    chomp $line;
    for my $word (split / /, $line) {
        if ($word =~ s/-([0-9a-f]+)$//) {
            my $number = hex $1;
            push @numbers, $number;
            $sum = ($sum * 31 + $number) % 1000003;
        }
        $count{$word}++;
        $after{"$before $word"}++;
        $before = $word;
    }
}
@numbers = sort { $a <=> $b || 0 } @numbers;
my $text = '';
for my $word (sort keys %count) {
    $text .= sprintf "%-10s %6d %s\n", $word, $count{$word}, scalar reverse $word;
}
$text =~ tr/a-y/b-z/;
print $text, scalar(keys %after), " $numbers[@numbers / 2] $sum\n";
