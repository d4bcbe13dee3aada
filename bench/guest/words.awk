# Counts words, and what is between them; for the row `awk`.
{
    for (i = 1; i <= NF; i++) {
        word = $i
        if (match(word, /-[0-9a-f]+$/)) {
            sum = (sum * 31 + length(word) * RSTART) % 1000003
            word = substr(word, 1, RSTART - 1)
        }
        count[word]++
        last[word] = NR
    }
}
END {
    for (word in count)
        total += count[word] * (last[word] % 97)
    print NR, total, sum
}
